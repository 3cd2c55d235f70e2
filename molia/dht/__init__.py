"""The DHT: contacts, routing table, lookups, records, provider records, upkeep. A core."""
