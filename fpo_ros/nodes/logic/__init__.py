"""What the nodes decide, without ROS: time is an argument, messages are plain values."""
