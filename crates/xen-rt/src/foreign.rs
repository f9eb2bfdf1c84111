//! Pages of other domains, mapped by grant.
