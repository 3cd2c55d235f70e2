"""The node's HTTP API: FastAPI for control, plain ASGI for the bytes of blobs."""
