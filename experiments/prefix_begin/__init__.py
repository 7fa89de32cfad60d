"""What the keys and values of prefix tuning begin as, and at which rate they learn."""
