"""How stable training is over seeds: screens, confirmations and restarts, and the tables of its page."""
