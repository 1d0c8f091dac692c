"""One run on one replica, under any launcher."""
