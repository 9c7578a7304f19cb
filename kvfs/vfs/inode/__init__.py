"""Inode numbers and what they stand for."""
