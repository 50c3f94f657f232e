"""`python -m lucida`, and so `torchrun -m lucida`: the command line."""

from lucida.cli import main

if __name__ == "__main__":
    main()
