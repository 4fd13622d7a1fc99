from pooling.cli import main

raise SystemExit(main())
