"""The project as the servers load it. With SITE_WARM it uses its database while it is loaded, before any fork, and
leaves the connection open."""

from __future__ import annotations

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.integrations.django_project.settings")
application = get_wsgi_application()

if "SITE_WARM" in os.environ:
    from tests.integrations.django_project import urls

    urls.inherited.append(urls.session())
