"""BSON: documents as bytes, and how they are decoded."""
