"""Blobs: how bytes become stripes, blocks, shares and a manifest, and bytes again.

In reading order: geometry (where each byte lies), erasure (parity and rebuilding), merkle (a
share's root over its blocks' digests), manifest (a blob's description, whose hash is its CID),
upload and download (the cores that drive a put and a read), verify (finding and mending damage),
leases (what may go). Everything here is synchronous, reads no clock and touches no disk.
"""
