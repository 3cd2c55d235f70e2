"""What schemathesis is told in code: a signed record goes out as bytes do."""

import schemathesis

schemathesis.serializer.alias("application/vnd.molia.record", "application/octet-stream")
