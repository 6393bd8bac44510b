"`python -m crane` is the command `crane`, for launchers that start modules."

from .command_line import main

main()
