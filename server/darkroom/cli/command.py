"""What the modules of the commands share."""

import argparse

Subparsers = argparse._SubParsersAction  # argparse gives this type no public name
