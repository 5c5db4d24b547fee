"""Flow policies from teleoperated demonstrations to real ALOHA arms: learning, releases and a ROS 2 graph."""

from pkgutil import extend_path

# The generated interfaces (fpo_ros.msg, fpo_ros.srv, fpo_ros.action) may be installed in another
# directory than the hand-written modules, as in an editable install: both belong to one package.
__path__ = extend_path(__path__, __name__)
__version__ = '0.1.0'
