# PostgreSQL with its data in /srv/pg, made on the first start.
set -e
bin=$(echo /usr/lib/postgresql/*/bin)
as() { setpriv --reuid postgres --regid postgres --init-groups "$@"; }
if [ ! -e /srv/pg/data/PG_VERSION ]; then
	install -d -o postgres -g postgres -m 700 /srv/pg/data /run/postgresql
	install -o postgres -m 600 /run/secrets/db-password /run/postgresql/pw
	as "$bin/initdb" -D /srv/pg/data -U app --pwfile=/run/postgresql/pw --auth=scram-sha-256 --no-sync >/dev/null
	rm /run/postgresql/pw
	echo "host all all all scram-sha-256" >>/srv/pg/data/pg_hba.conf
	echo "create database app" | as "$bin/postgres" --single -D /srv/pg/data postgres >/dev/null
fi
install -d -o postgres -g postgres /run/postgresql
exec setpriv --reuid postgres --regid postgres --init-groups "$bin/postgres" -D /srv/pg/data -c listen_addresses='*' -c shared_buffers=16MB
