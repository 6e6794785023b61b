"""Adoption of the documents of the Clojure library."""
