"""`python -m ssd_deploy` is `ssd-deploy`."""

from ssd_deploy.cli import main

main()
