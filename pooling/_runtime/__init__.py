"""Where time and threads come from: the clock, the workers that do the drivers' I/O, the one reaper that wakes pools
when something is due, the bells of those who wait, and what a fork does to all of them."""
