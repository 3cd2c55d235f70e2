"""The shell that joins store and blobs into a node; the API asks it through `service`."""
