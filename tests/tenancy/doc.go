// Package tenancy has real users of one host share one engine: each test runs
// clients under uids of their own, against a policy that makes them tenants.
package tenancy
