"""`/openapi.json`, `/ui/api` and the front page, all without a credential: they hold nothing of anybody."""

from __future__ import annotations

from aiohttp import web

from gateway.openapi import document, page

routes = web.RouteTableDef()

_HEADERS = {
    "Content-Security-Policy": page.POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


@routes.get("/openapi.json")
async def openapi(_: web.Request) -> web.Response:
    return web.Response(body=document.encoded(), content_type="application/json")


@routes.get("/")
@routes.get("/ui")
async def welcome(_: web.Request) -> web.Response:
    return web.Response(body=page.welcome(), content_type="text/html", charset="utf-8", headers=_HEADERS)


@routes.get("/ui/api")
async def interface(_: web.Request) -> web.Response:
    return web.Response(body=page.page(), content_type="text/html", charset="utf-8", headers=_HEADERS)
