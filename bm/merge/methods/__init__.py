"""Merge methods: each one pure function of a named parameter across models, after the paper its docstring names."""

from bm.merge.methods.ace import ace
from bm.merge.methods.aim import aim
from bm.merge.methods.arcee_fusion import arcee_fusion
from bm.merge.methods.breadcrumbs import breadcrumbs, breadcrumbs_ties
from bm.merge.methods.dare import dare_linear, dare_ties
from bm.merge.methods.della import della, della_linear
from bm.merge.methods.fisher import fisher
from bm.merge.methods.iso import iso_c, iso_cts
from bm.merge.methods.karcher import karcher
from bm.merge.methods.linear import linear
from bm.merge.methods.lines import lines
from bm.merge.methods.model_stock import model_stock
from bm.merge.methods.nearswap import nearswap
from bm.merge.methods.ota import ota
from bm.merge.methods.passthrough import passthrough
from bm.merge.methods.ram import ram, ram_plus
from bm.merge.methods.regmean import regmean, regmean_plus_plus
from bm.merge.methods.sce import sce
from bm.merge.methods.slerp import multislerp, nuslerp, slerp
from bm.merge.methods.svc import svc
from bm.merge.methods.task_arithmetic import task_arithmetic
from bm.merge.methods.ties import ties
from bm.merge.methods.tsv_m import tsv_m
from bm.merge.methods.wudi import wudi

__all__ = [
    "ace",
    "aim",
    "arcee_fusion",
    "breadcrumbs",
    "breadcrumbs_ties",
    "dare_linear",
    "dare_ties",
    "della",
    "della_linear",
    "fisher",
    "iso_c",
    "iso_cts",
    "karcher",
    "linear",
    "lines",
    "model_stock",
    "multislerp",
    "nearswap",
    "nuslerp",
    "ota",
    "passthrough",
    "ram",
    "ram_plus",
    "regmean",
    "regmean_plus_plus",
    "sce",
    "slerp",
    "svc",
    "task_arithmetic",
    "ties",
    "tsv_m",
    "wudi",
]
