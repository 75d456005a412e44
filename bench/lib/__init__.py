# SPDX-License-Identifier: GPL-2.0-or-later
"""What the drivers in bench/ share. Python 3.11, standard library only."""
