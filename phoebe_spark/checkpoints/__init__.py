"""The checkpoint store for people: listing, verification and garbage collection."""
