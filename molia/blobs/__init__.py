"""Blobs: how bytes become stripes, blocks, shares and a manifest, and bytes again.

In reading order: geometry (where each byte lies), erasure (parity and rebuilding), merkle (a
share's root over its blocks' digests), manifest (a blob's description, whose hash is its CID),
upload and download (the cores that drive a put and a read), verify (finding and mending damage),
leases (what may go). On the network: placement, matching and elastic (which node gets which share,
and how many there are), statements (signed leases and claims), distribution (the job that places),
intake (shares that come in), sources, gather and gather_whole (reads from other nodes), audit,
standing, repair and rebuilt (what is lost is found and made again), estimate (what that is worth a
year). Everything here is synchronous, reads no clock and touches no disk.
"""
