"""What a node keeps on its disk: per shard a log of values and an LMDB index of them."""
