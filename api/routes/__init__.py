"""The routes, a module a resource; `TABLE` is all of them."""

from api.routes import audit, contract, history, models, predict, stats
from api.routing import RouteTable

TABLE = RouteTable([*predict.ROUTES, *models.ROUTES, *history.ROUTES, *stats.ROUTES, *audit.ROUTES, *contract.ROUTES])
