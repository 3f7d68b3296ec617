"""Tests of single modules; folders mirror the package."""
