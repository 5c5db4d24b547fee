"""The driver twin: what the arms' and cameras' drivers publish, from MuJoCo."""
