"""Redis for the services that may share something there: one set of settings, one client, which follows its URL."""

from afdp.redis.breaker import Breaker, RedisAway
from afdp.redis.following import FollowingRedis
from afdp.redis.settings import RedisSettings

__all__ = ["Breaker", "FollowingRedis", "RedisAway", "RedisSettings"]
