"""Every kind of input that this project reads, damaged in thousands of ways.

    python -m tests.fuzz --inputs 2000          or: make fuzz N=2000
    python -m tests.fuzz --only checkpoint:17   one input again; its files are kept

For each input: it is read, or refused with one printable line (UserError; RunFailed where that is documented); nothing
in it was run; no more than 20 s of processor time, no more than 1 GiB of memory. An input follows from the seed, the
name of its format and its number.
"""
