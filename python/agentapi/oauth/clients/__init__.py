"""The gateway as a client of authorization servers, and which one each upstream uses."""
