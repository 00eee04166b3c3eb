"""The messages of `afdp.transparency.v1`, generated into `afdp.pb` with their service, under a shorter path."""

from afdp.pb.afdp.transparency.v1 import *
from afdp.pb.stubs.transparency import *
