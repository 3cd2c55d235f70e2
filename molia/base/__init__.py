"""What every other package stands on, in reading order.

now, entropy, deadlines: time and chance as values. hashing, crypto: the two engines behind ids.
ids, cid: how things are named. ranges: half-open ranges. errors, limits: every way to fail and
every bound. config: every setting. views: the frozen values that cross the node's front door.
"""
