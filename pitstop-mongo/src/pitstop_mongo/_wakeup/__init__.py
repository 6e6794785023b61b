"""Wake-ups: how a listener notices messages that other processes store."""
