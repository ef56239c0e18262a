"""What is here of DT: brought by sync, looked up here or else in DT, its pictures found on this machine."""
