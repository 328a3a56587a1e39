"""Reads a ledger of format 2, written from docs/format.md, docs/decisions.md and proto/ alone."""
