"""The messages of `afdp.metadata.v1`, generated into `afdp.pb` with their service, under a shorter path."""

from afdp.pb.afdp.metadata.v1 import *
from afdp.pb.stubs.metadata import *
