"""Branch-Merge distillation: experts per domain, one merged model, and whether that beat training on everything."""

__version__ = "0.1.0"
