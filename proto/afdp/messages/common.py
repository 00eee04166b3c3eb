"""The messages of `afdp.common.v1`, generated into `afdp.pb`, under a shorter path."""

from afdp.pb.afdp.common.v1 import *
