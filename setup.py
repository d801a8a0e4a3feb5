"""Installation. Frameworks are extras: a user installs the ones that the hardware has."""
from setuptools import find_packages, setup

FRAMEWORKS = {"torch": ["torch"], "mindspore": ["mindspore"], "paddle": ["paddlepaddle"]}
POSTGRES = ["psycopg2-binary"]  # for searches whose machines share a database
DEV = ["pytest", "hypothesis", "ruff", "mypy", "types-PyYAML", "pandas-stubs", *POSTGRES]

setup(
    name="lmf-three-frameworks",
    version="0.1.0",
    description="Low-rank Multimodal Fusion in PyTorch, MindSpore and Paddle with one result",
    python_requires=">=3.10,<3.13",
    packages=find_packages(include=["core", "core.*", "backends", "backends.*", "parity"]),
    install_requires=["numpy<2", "pydantic>=2", "PyYAML", "safetensors", "scikit-learn", "rich", "tensorboardX",
                      "jinja2", "matplotlib", "optuna", "scipy", "pandas", "tabulate"],
    package_data={"parity": ["report.html.j2"], "core.studies.tables": ["published.yaml", "report.html.j2"]},
    extras_require={**FRAMEWORKS, "all": [name for names in FRAMEWORKS.values() for name in names],
                    "postgres": POSTGRES, "dev": DEV},
)
