"""`python -m core.models --help`: a model as a table of its blocks. The command stands above this room."""
import runpy

if __name__ == "__main__":
    runpy.run_module("core.model_table", run_name="__main__")
