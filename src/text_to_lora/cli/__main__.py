"""python -m text_to_lora.cli: the same command, for launchers that take a module."""

from text_to_lora.cli import main

if __name__ == "__main__":
    main()
