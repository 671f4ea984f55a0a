"""The register of claims, and what decides them.

A claim's rule (:mod:`nbrepro.claims.rules`) is written before the run that decides it;
:mod:`nbrepro.claims.verdicts` applies it.
"""

from nbrepro.claims.register import SEEN, Claim, Paper, Quoted, get, of_chapter, register

__all__ = ["SEEN", "Claim", "Paper", "Quoted", "get", "of_chapter", "register"]
