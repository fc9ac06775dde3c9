"""`python -m darkroom`: how a supervisor starts its workers, whatever the PATH."""

import sys

from darkroom.cli.main import main

sys.exit(main())
