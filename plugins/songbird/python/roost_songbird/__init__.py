"""Roost's voice driver ``songbird``: the Rust library Songbird under Roost's actors."""
