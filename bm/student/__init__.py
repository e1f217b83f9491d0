"""Builders of an initial student: each leaves a Hugging Face folder."""
