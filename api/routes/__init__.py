"""The routes, a module a resource; `TABLE` is all of them."""

from api.routes import access, audit, contract, history, models, predict, stats
from api.routing import RouteTable

TABLE = RouteTable(
    [
        *predict.ROUTES,
        *models.ROUTES,
        *history.ROUTES,
        *stats.ROUTES,
        *audit.ROUTES,
        *access.ROUTES,
        *contract.ROUTES,
    ]
)
