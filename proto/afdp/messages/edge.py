"""The messages of `afdp.edge.v1`, generated into `afdp.pb` with their service, under a shorter path."""

from afdp.pb.afdp.edge.v1 import *
from afdp.pb.stubs.edge import *
