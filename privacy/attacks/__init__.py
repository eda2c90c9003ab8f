"""Attacks on our own promises, so that each claim is tried by somebody: what they find stands beside what is promised."""
