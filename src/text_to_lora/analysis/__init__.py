"""What hypernetworks and libraries of adapters hold: similarities, errors, and plots of them."""
