"""The arms and cameras of the cell as arrays: names, joints, grippers, images, alignment. No ROS imports."""
